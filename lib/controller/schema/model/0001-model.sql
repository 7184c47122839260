CREATE TABLE change_counter (
    subject TEXT NOT NULL PRIMARY KEY,
    count INTEGER NOT NULL
);
CREATE TABLE model_life (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    life TEXT NOT NULL CHECK (life IN ('alive', 'dying'))
);
INSERT INTO model_life (id, life) VALUES (1, 'alive');
