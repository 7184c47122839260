CREATE TABLE IF NOT EXISTS controller_node (
    controller_id TEXT NOT NULL PRIMARY KEY,
    dqlite_node_id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    dqlite_bind_address TEXT NOT NULL,
    generation INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS controller_dropped (
    name TEXT NOT NULL PRIMARY KEY,
    controller_id TEXT NOT NULL,
    address TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS controller_config (
    "key" TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
