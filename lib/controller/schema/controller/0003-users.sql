CREATE TABLE api_user (
    name TEXT NOT NULL PRIMARY KEY,
    display_name TEXT NOT NULL,
    access TEXT NOT NULL CHECK (access IN ('login', 'superuser')),
    password_hash TEXT,
    created TEXT NOT NULL,
    disabled INTEGER NOT NULL
);
CREATE TABLE api_registration (
    name TEXT NOT NULL PRIMARY KEY REFERENCES api_user (name),
    secret_hash TEXT NOT NULL,
    expires INTEGER NOT NULL
);
INSERT INTO api_user (name, display_name, access, password_hash, created, disabled)
VALUES ('admin', 'admin', 'superuser', NULL, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'), 0);
