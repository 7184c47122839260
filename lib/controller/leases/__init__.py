"""Flow 2: who is responsible for what. See docs/flows/2-responsibility.md."""

from controller.leases.fence import FencedDatabase
from controller.leases.lease import Denied, Fenced, InvalidLease, Key, LeaseError, Lost, Token
from controller.leases.manager import Manager
from controller.leases.responsible import Responsibility, Singular, is_responsible
from controller.leases.singular import singular

__all__ = [
    "Denied",
    "Fenced",
    "FencedDatabase",
    "InvalidLease",
    "Key",
    "LeaseError",
    "Lost",
    "Manager",
    "Responsibility",
    "Singular",
    "Token",
    "is_responsible",
    "singular",
]
