CREATE TABLE controller_api_address (
    controller_id TEXT NOT NULL,
    address TEXT NOT NULL,
    port INTEGER NOT NULL,
    PRIMARY KEY (controller_id, address)
);
CREATE TABLE space (
    name TEXT NOT NULL PRIMARY KEY
);
CREATE TABLE subnet (
    cidr TEXT NOT NULL PRIMARY KEY,
    space TEXT NOT NULL REFERENCES space (name)
);
CREATE TABLE api_servers (
    audience TEXT NOT NULL PRIMARY KEY,
    revision INTEGER NOT NULL,
    servers TEXT NOT NULL,
    notes TEXT NOT NULL
);
