"""The SDK: asynch's HTTP interface as a Python object; knows nothing of its tables and settings."""

from asynch.client.api import Client
from asynch.client.errors import (
    ClientError,
    IncompleteError,
    RefusedError,
    UnreachableError,
    UploadError,
    WaitError,
    WaitTimeoutError,
)
from asynch.client.shapes import (
    Created,
    Item,
    Model,
    ModelFields,
    NewModel,
    NewTask,
    StatusDocument,
    TaskFields,
)
from asynch.client.uploading import UploadedFile

__all__ = [
    "Client",
    "ClientError",
    "Created",
    "IncompleteError",
    "Item",
    "Model",
    "ModelFields",
    "NewModel",
    "NewTask",
    "RefusedError",
    "StatusDocument",
    "TaskFields",
    "UnreachableError",
    "UploadError",
    "UploadedFile",
    "WaitError",
    "WaitTimeoutError",
]
