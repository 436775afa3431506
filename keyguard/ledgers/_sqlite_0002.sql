-- Version 2: amounts of later requests about an object are in the object's own currency.

ALTER TABLE objects ADD COLUMN currency TEXT NOT NULL DEFAULT 'usd';
