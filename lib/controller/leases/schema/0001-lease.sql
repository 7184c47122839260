CREATE TABLE lease (
    namespace TEXT NOT NULL,
    model TEXT NOT NULL,
    name TEXT NOT NULL,
    holder TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    token_epoch INTEGER NOT NULL,
    token_count INTEGER NOT NULL CHECK (token_count > 0),
    renewals INTEGER NOT NULL CHECK (renewals > 0),
    duration_ms INTEGER NOT NULL CHECK (duration_ms > 0),
    since INTEGER NOT NULL,
    late INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    PRIMARY KEY (namespace, model, name)
);
CREATE INDEX lease_changed ON lease (changed);
