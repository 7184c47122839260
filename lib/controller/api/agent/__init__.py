"""Flow 3, the agent's side: agent.conf, the caller that dials and logs in, and the updater of the list."""
