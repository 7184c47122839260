CREATE TABLE agent_secret (
    tag TEXT NOT NULL PRIMARY KEY,
    secret_hash TEXT NOT NULL
);
