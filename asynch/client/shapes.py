"""The documents of the contract as types, in the contract's own spelling; nothing here runs."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, Required, TypedDict

Json = Any  #: whatever JSON can say
Flag = Literal[0, 1] | bool


class ModelFields(TypedDict, total=False):
    """What may be said of a model; what is absent keeps its default, or its value."""

    route: str
    httpMethod: Literal["GET", "POST"]
    apiKey: str  #: header bindings, `Key:Value,Key2:"Value2"`
    enabled: Flag
    maxConcurrency: int
    queueLimit: int
    timeoutSeconds: int
    retryTimes: int
    retryQueueMaxSeconds: int
    retryOn: Literal["any", "transient"]
    retryBackoffSeconds: int
    autoCleanSeconds: int
    maxResultBytes: int
    remark: str


class NewModel(ModelFields, total=False):
    """A model to register."""

    modelName: Required[str]
    baseUrl: Required[str]


class ModelChanges(ModelFields, total=False):
    """With an id, `modelName` is the new name; without, it says which model."""

    id: str | int
    modelName: str
    baseUrl: str


class Model(TypedDict):
    """A registered model; `apiKey` is masked."""

    id: str
    tenantId: str
    kind: str
    modelName: str
    baseUrl: str
    route: str
    httpMethod: str
    apiKey: str
    enabled: int
    maxConcurrency: int
    queueLimit: int
    timeoutSeconds: int
    retryTimes: int
    retryQueueMaxSeconds: int
    retryOn: str
    retryBackoffSeconds: int
    autoCleanSeconds: int
    maxResultBytes: int
    remark: str
    creator: str
    createdAt: str
    updater: str
    updatedAt: str


class TaskFields(TypedDict, total=False):
    """What may be said of a task besides its model and payload."""

    inputRef: str
    bizName: str
    clientRef: str
    metadata: dict[str, Json]
    priority: int
    delaySeconds: float
    notBefore: str
    queueTimeoutSeconds: int
    callbackUrl: str
    expireNoticeSeconds: int


class NewTask(TaskFields, total=False):
    """One task for create_tasks."""

    modelName: Required[str]
    requestPayload: Json


class Mistake(TypedDict):
    """One thing wrong with a body, and where."""

    pointer: str
    detail: str


class Refusal(TypedDict):
    """Why one task of several was not created."""

    code: str
    detail: str
    errors: NotRequired[list[Mistake]]


class Created(TypedDict):
    """What came of one task: a `taskId` or an `error`. `index` counts the whole list that was given."""

    index: int
    taskId: NotRequired[str]
    error: NotRequired[Refusal]


class Item(TypedDict):
    """A task as lists tell it. Of a missing or gone one only the first four are there, `state` is None."""

    taskId: str
    state: int | None
    status: Literal["pending", "processing", "completed", "failed", "cancelled", "missing", "gone"]
    final: bool
    modelName: NotRequired[str]
    bizName: NotRequired[str]
    clientRef: NotRequired[str]
    metadata: NotRequired[dict[str, Json] | None]
    priority: NotRequired[int]
    phase: NotRequired[int]
    progress: NotRequired[int | None]
    message: NotRequired[str | None]
    ossFile: NotRequired[str]
    fileType: NotRequired[str]
    fileSize: NotRequired[int | None]
    errorMsg: NotRequired[str]
    retryCount: NotRequired[int]
    createdAt: NotRequired[str]
    startedAt: NotRequired[str | None]
    finishedAt: NotRequired[str | None]
    expireAt: NotRequired[str | None]


class TaskError(TypedDict):
    """Why a task failed, or its last attempt."""

    code: str
    detail: str
    retryable: bool | None


class Result(TypedDict):
    """Where a result is."""

    url: str
    urlExpiresAt: str | None
    contentType: str | None
    size: int | None
    sha256: str | None


class Attempt(TypedDict):
    """One attempt of a task; unknown is None or absent."""

    attempt: int
    startedAt: NotRequired[str | None]
    finishedAt: NotRequired[str | None]
    host: NotRequired[str | None]
    phase: NotRequired[int | None]
    outcome: NotRequired[str | None]
    code: NotRequired[str | None]
    httpStatus: NotRequired[int | None]
    detail: NotRequired[str | None]


class StatusDocument(Item):
    """All there is to know of one task; unknown is None."""

    id: str
    tenantId: str
    creator: str
    updater: str
    updatedAt: str
    enqueueAt: str | None
    inputRef: str | None
    attempt: int
    maxAttempts: int | None
    queuePosition: int | None
    queuePositionCapped: NotRequired[bool]
    etaSeconds: int | None
    estimatedCompletion: str | None
    notBefore: str | None
    error: TaskError | None
    result: Result | None
    attempts: list[Attempt]
    _links: dict[str, str]
