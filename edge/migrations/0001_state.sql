-- The edge's state. TEXT and BIGINT only, so that SQLite and PostgreSQL read the same file. Times are seconds since 1970,
-- digests lower-case hexadecimal SHA-256, `position` the number of the change that made the row (lists are ordered by it).

-- 'change' counts changes that other edges must act on, 'audit' numbers audit rows.
CREATE TABLE sequence (
    name TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO sequence (name, value) VALUES ('change', 0), ('audit', 0);

CREATE TABLE setting (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- A domain is never used again, also not after its tunnel was archived: rows are not deleted.
CREATE TABLE tunnel (
    id TEXT PRIMARY KEY,
    position BIGINT NOT NULL,
    domain TEXT NOT NULL UNIQUE,
    display_name TEXT,
    created_at BIGINT NOT NULL,
    archived_at BIGINT,
    suspended_at BIGINT
);
CREATE INDEX tunnel_position ON tunnel (position);

-- From refused_at on it opens nothing new, from cut_at on whatever is bound to it is closed.
-- `sealed`: the value of a token that may be revealed.
CREATE TABLE connector_credential (
    id TEXT PRIMARY KEY,
    position BIGINT NOT NULL,
    tunnel TEXT NOT NULL REFERENCES tunnel (id),
    kind TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    sealed TEXT,
    created_at BIGINT NOT NULL,
    refused_at BIGINT,
    cut_at BIGINT,
    last_used_at BIGINT,
    UNIQUE (tunnel, sha256)
);

CREATE TABLE certificate (
    id TEXT PRIMARY KEY,
    position BIGINT NOT NULL,
    tunnel TEXT NOT NULL REFERENCES tunnel (id),
    fingerprint TEXT NOT NULL,
    pem TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    archived_at BIGINT
);
CREATE INDEX certificate_tunnel ON certificate (tunnel, position);

-- Who may call: `document` is the JSON of the API's object, `version` what If-Match is compared with.
CREATE TABLE access (
    tunnel TEXT PRIMARY KEY REFERENCES tunnel (id),
    version BIGINT NOT NULL,
    document TEXT NOT NULL,
    changed_at BIGINT NOT NULL
);

CREATE TABLE bundle (
    tunnel TEXT NOT NULL REFERENCES tunnel (id),
    sequence BIGINT NOT NULL,
    jws TEXT NOT NULL,
    signer TEXT NOT NULL,
    next_signer TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tunnel, sequence)
);

CREATE TABLE issuer (
    id TEXT PRIMARY KEY,
    position BIGINT NOT NULL,
    name TEXT NOT NULL UNIQUE,
    document TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    archived_at BIGINT
);

CREATE TABLE rule (
    id TEXT PRIMARY KEY,
    position BIGINT NOT NULL,
    name TEXT NOT NULL UNIQUE,
    issuer TEXT NOT NULL REFERENCES issuer (id),
    document TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    archived_at BIGINT
);

CREATE TABLE access_token (
    sha256 TEXT PRIMARY KEY,
    rule TEXT NOT NULL REFERENCES rule (id),
    subject TEXT NOT NULL,
    scope TEXT NOT NULL,
    tunnel TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX access_token_end ON access_token (expires_at);

-- Assertions that were used: by their jti, or by their digest.
CREATE TABLE used_assertion (
    issuer TEXT NOT NULL,
    mark TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (issuer, mark)
);
CREATE INDEX used_assertion_end ON used_assertion (expires_at);

-- `answer` is sealed: it holds a token.
CREATE TABLE idempotency (
    tunnel TEXT NOT NULL REFERENCES tunnel (id),
    mark TEXT NOT NULL,
    request TEXT NOT NULL,
    answer TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (tunnel, mark)
);

-- Edges that serve, and the change that each has come to.
CREATE TABLE instance (
    id TEXT PRIMARY KEY,
    applied BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
);

CREATE TABLE live_connection (
    instance TEXT NOT NULL,
    connection BIGINT NOT NULL,
    credential TEXT NOT NULL,
    replica TEXT NOT NULL,
    address TEXT NOT NULL,
    PRIMARY KEY (instance, connection)
);
CREATE INDEX live_connection_credential ON live_connection (credential);

CREATE TABLE audit (
    number BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    tunnel TEXT,
    target TEXT,
    outcome TEXT NOT NULL,
    reason TEXT,
    request_id TEXT NOT NULL
);
