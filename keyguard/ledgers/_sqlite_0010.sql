-- Version 10: vault keys of a proxy that calls of a key here go through. They are what a call carries, so they are kept as they are.

CREATE TABLE remote_keys (
  key_id     TEXT NOT NULL,
  vendor     TEXT NOT NULL,
  proxy      TEXT NOT NULL,
  token      TEXT NOT NULL,
  remote_id  TEXT NOT NULL,
  expires_at REAL,
  asked      TEXT NOT NULL,
  judges     INTEGER NOT NULL,
  PRIMARY KEY (key_id, vendor)
) STRICT, WITHOUT ROWID;
