-- Version 9: tokens that a proxy hands out. They are random and kept as their hashes alone: who reads this file can call nobody.

CREATE TABLE minted (digest BLOB PRIMARY KEY, key_id TEXT NOT NULL) STRICT, WITHOUT ROWID;
