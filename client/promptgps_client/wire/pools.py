"""Pools and prompts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from promptgps_client.wire.base import (
    MAX_DIMENSION,
    MAX_PROMPTS_IN_REQUEST,
    NO_NUL,
    Domain,
    Evidence,
    Key,
    Name,
    Text,
    Vector,
    Wire,
    columns_fault,
    same_length,
)


class Embedding(Wire):
    """How a pool's prompts become vectors; fixed when the pool is made."""

    kind: Literal["wordllama", "given", "folder"] = "wordllama"
    dimension: Annotated[int, Field(ge=1, le=MAX_DIMENSION)] | None = Field(
        None, description="Only with `given`: the length of the vectors that the caller brings."
    )
    path: (
        Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=NO_NUL)] | None
    ) = Field(
        None,
        description="Only with `folder`: a sentence-transformers model on the service's own disk.",
    )

    @model_validator(mode="after")
    def _each_kind_has_its_own(self) -> Embedding:
        if (self.kind == "given") != (self.dimension is not None):
            raise columns_fault(
                "dimension", "is needed with kind `given` and not allowed with the others"
            )
        if (self.kind == "folder") != (self.path is not None):
            raise columns_fault(
                "path", "is needed with kind `folder` and not allowed with the others"
            )

        return self


class CreatePool(Wire):
    """Make a pool. Asked again with the same content it answers the pool that is there."""

    name: Name
    embedding: Embedding = Embedding()


class Pool(Wire):
    """A named set of prompts."""

    name: str
    embedding: Embedding
    dimension: int = Field(description="Length of the embedding vectors.")
    prompts: int = Field(description="How many prompts it holds.")
    state: Literal["open", "archived"] = "open"
    created_at: str = Field(description="UTC, ISO 8601.")


class Pools(Wire):
    """Every pool, by name."""

    pools: list[Pool]


OnEqualContent = Literal["keep", "merge"]


class AddPrompts(Wire):
    """Prompts in columns; `texts`, `vectors` or both must be there.

    Keys default to a hash of the content.
    """

    keys: Annotated[list[Key], Field(max_length=MAX_PROMPTS_IN_REQUEST)] | None = None
    texts: Annotated[list[Text], Field(max_length=MAX_PROMPTS_IN_REQUEST)] | None = None
    vectors: Annotated[list[Vector], Field(max_length=MAX_PROMPTS_IN_REQUEST)] | None = None
    domains: Annotated[list[Domain | None], Field(max_length=MAX_PROMPTS_IN_REQUEST)] | None = None
    prior_successes: (
        Annotated[list[Evidence | None], Field(max_length=MAX_PROMPTS_IN_REQUEST)] | None
    ) = None
    prior_trials: (
        Annotated[list[Evidence | None], Field(max_length=MAX_PROMPTS_IN_REQUEST)] | None
    ) = None
    on_equal_content: OnEqualContent | None = Field(
        None,
        description="What becomes of a key whose content another key of the pool has already: "
        "`keep` it as a prompt of its own, the default where keys are given, or `merge` it, so "
        "that it is an alias of the other.",
    )

    @model_validator(mode="after")
    def _columns_agree(self) -> AddPrompts:
        if self.texts is None and self.vectors is None:
            raise columns_fault("texts", "texts or vectors are needed")

        same_length(
            texts=self.texts,
            vectors=self.vectors,
            keys=self.keys,
            domains=self.domains,
            prior_successes=self.prior_successes,
            prior_trials=self.prior_trials,
        )
        if (self.prior_successes is None) != (self.prior_trials is None):
            raise columns_fault("prior_trials", "prior_successes and prior_trials go together")

        return self


class PromptsAdded(Wire):
    """What an import did."""

    added: int
    duplicates: int = Field(
        description="Rows whose key or content the pool had already; they change nothing."
    )
    aliases: int = Field(
        0, description="Rows whose key is now another name of a prompt with the same content."
    )
    total: int
    ignored_columns: list[str] = Field(
        default_factory=list, description="Columns of the file that were passed over."
    )
