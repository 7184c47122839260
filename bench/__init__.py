"""What the database can do on this machine, measured, with etcd beside it in the same run. Not shipped."""
