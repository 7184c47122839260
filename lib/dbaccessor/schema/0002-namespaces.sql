ALTER TABLE controller_node ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE controller_node ADD COLUMN application INTEGER NOT NULL DEFAULT 0;
CREATE TABLE namespace_list (
    namespace TEXT NOT NULL PRIMARY KEY,
    incarnation TEXT NOT NULL UNIQUE
);
