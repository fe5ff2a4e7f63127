-- Whether an edge has a table of autonomous systems: without one a list of them lets nobody in there.
ALTER TABLE instance ADD COLUMN asns BIGINT NOT NULL DEFAULT 0;
