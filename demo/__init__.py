"""The main job told as a story: real units, a real cluster, a writer outside it, and five kills. Not shipped."""
