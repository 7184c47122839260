CREATE TABLE machine_enrolment (
    uuid TEXT NOT NULL PRIMARY KEY,
    secret TEXT NOT NULL
);
