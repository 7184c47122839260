"""Fault runs: clients that write down what they saw, faults by a seed, and a judge that reads the history afterwards.

client.py writes the history, linearizable.py and verdict.py read it (both pure), nemesis.py throws the dice, and
onloopback.py and onlocaljuju.py carry out what they say.
"""
