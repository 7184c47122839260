CREATE TABLE machine (
    uuid TEXT NOT NULL PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    manual INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    retry_seconds INTEGER,
    instance TEXT NOT NULL,
    address TEXT NOT NULL
);
CREATE INDEX machine_state ON machine (state);
CREATE TABLE machine_count (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    numbers_used INTEGER NOT NULL
);
INSERT INTO machine_count (id, numbers_used) VALUES (1, 0);
