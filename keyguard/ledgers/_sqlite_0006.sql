-- Version 6: what is settled at a price of our own, until the vendor says its price.

CREATE TABLE estimates (hold TEXT PRIMARY KEY, object TEXT NOT NULL) STRICT, WITHOUT ROWID;
