-- Version 11: whether a human has set a day's cap. What runs of that policy ask for after that lowers it no more.

ALTER TABLE budget ADD COLUMN raised INTEGER NOT NULL DEFAULT 0;
