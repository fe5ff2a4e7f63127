-- When refused_at and cut_at of a credential were last written, by the clock that they were written by: what is not later than
-- that is so from that change on, whatever the time is where it is read.
ALTER TABLE connector_credential ADD COLUMN stamped_at BIGINT;
