CREATE TABLE change_counter (
    subject TEXT NOT NULL PRIMARY KEY,
    count INTEGER NOT NULL
);
CREATE TABLE model (
    uuid TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    life TEXT NOT NULL CHECK (life IN ('alive', 'dying', 'dead')),
    created TEXT NOT NULL
);
