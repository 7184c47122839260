CREATE TABLE machine_sweep (
    provider TEXT NOT NULL PRIMARY KEY,
    epoch INTEGER NOT NULL
);
