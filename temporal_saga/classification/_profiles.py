"""Profiles: the meaning of failures with one provider, by class, by code and by status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from temporal_saga.errors import FailureKind

from ._tables import GRPC_CODES

__all__ = [
    "PROVIDERS",
    "Profile",
    "Rule",
    "adyen",
    "anthropic",
    "check_rules",
    "checked_profile",
    "google",
    "openai",
    "paypal",
    "square",
    "stripe",
]


@dataclass(frozen=True)
class Rule:
    """The meaning of an exception of one class, or of a class derived from it.

    Attributes:
        module: The module that defines the class, or a package around it (`stripe` for `stripe._error`).
        name: The name of the class.
        kind: What the exception means for the request that failed.
        client_retries: Whether the client may have sent another request in the same call; see `Profile`.

    Raises:
        TypeError: If the kind is not a `FailureKind`, or `client_retries` is not a bool.
    """

    module: str
    name: str
    kind: FailureKind
    client_retries: bool | None = None

    def __post_init__(self) -> None:
        _check_kinds(f"Rule({self.module!r}, {self.name!r})", [self.kind])
        _check_client_retries(f"Rule({self.module!r}, {self.name!r})", self.client_retries)


@dataclass(frozen=True)
class Profile:
    """The meaning of failures with one provider. The same 409 means different things with different providers.

    Attributes:
        rules: Classes of exceptions. The first rule that fits the most derived class decides.
        codes: Error codes: those on the exceptions of the provider's own library, or in the body of the answer if httpx
            or requests have read it.
        statuses: HTTP statuses.
        retry_header: A response header whose value, `true` or `false`, says whether to retry with the same key.
        client_retries: Whether the client may send another request in the same call: a retry, a redirect. Write False
            if the client does this by default and you have switched it off, and True if you have switched it on: then
            its errors prove nothing. With None, the library's own table decides:
            `python -m temporal_saga.classification`. An error of a call that sent several requests proves nothing.

    Raises:
        TypeError: If a rule is not a `Rule`, a kind is not a `FailureKind`, a code is not a string, a status is not an
            int, or `client_retries` is not a bool.
    """

    rules: Sequence[Rule] = ()
    codes: Mapping[str, FailureKind] = field(default_factory=dict[str, FailureKind])
    statuses: Mapping[int, FailureKind] = field(default_factory=dict[int, FailureKind])
    retry_header: str | None = None
    client_retries: bool | None = None

    def __post_init__(self) -> None:
        _check_client_retries("Profile", self.client_retries)
        for name, kinds in (("codes", self.codes), ("statuses", self.statuses)):
            _check_kinds(f"Profile({name}=...)", kinds.values())
        check_rules("Profile(rules=...)", self.rules)
        for name, kinds, of, what in (("codes", self.codes, str, "a str"), ("statuses", self.statuses, int, "an int")):
            for key in cast("Mapping[object, FailureKind]", kinds):
                if not isinstance(key, of):
                    raise TypeError(f"Profile({name}=...) has {key!r}, which is not {what}")


def check_rules(what: str, rules: object) -> None:
    """Raise TypeError if `rules` is not a list of rules."""
    if not isinstance(rules, Sequence) or isinstance(rules, str):
        raise TypeError(f"{what} must be a list of rules, such as [Rule(...)]; got {rules!r}")
    for rule in cast("Sequence[object]", rules):
        if not isinstance(rule, Rule):
            raise TypeError(f"{what} has {rule!r}, which is not a Rule: write Rule(module, name, kind)")


def checked_profile(profile: object) -> Profile:
    """Return a profile, or an empty one for None. Raise TypeError for anything else."""
    if profile is None:
        return _NO_PROFILE
    if not isinstance(profile, Profile):
        raise TypeError(f"profile must be a Profile, such as classification.stripe or Profile(...); got {profile!r}")
    return profile


def _check_kinds(what: str, kinds: Iterable[object]) -> None:
    # Check here: a wrong kind would raise later, in the worker, and hide the activity's own error.
    for kind in kinds:
        if not isinstance(kind, FailureKind):
            raise TypeError(
                f"{what} has {kind!r}, which is not a FailureKind: write FailureKind.DECLINED, or another one"
            )


def _check_client_retries(what: str, value: object) -> None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{what}: client_retries must be True, False or None; got {value!r}")


_NO_PROFILE = Profile()

# https://docs.stripe.com/api/idempotent_requests, https://docs.stripe.com/error-codes. The header is in stripe-python,
# `_http_client.py`. It is false for most 500s, since the same key would get the same 500 again.
stripe: Profile = Profile(
    codes={
        "idempotency_error": FailureKind.KEY_MISUSE,  # its type, without a code
        "idempotency_key_in_use": FailureKind.IN_PROGRESS,
        "lock_timeout": FailureKind.IN_PROGRESS,
    },
    statuses={409: FailureKind.IN_PROGRESS},
    retry_header="stripe-should-retry",
)
"""Stripe: 409 means that a request with this key is still running."""

# https://docs.adyen.com/development-resources/api-idempotency: 704 (with 422 or 409) means that a request with this key
# is still running. 703 (with 503) means that their store of keys is down.
adyen: Profile = Profile(
    codes={"703": FailureKind.AMBIGUOUS, "704": FailureKind.IN_PROGRESS},
    statuses={409: FailureKind.IN_PROGRESS},
    retry_header="transient-error",
)
"""Adyen: 409 means that a request with this key is still running. `transient-error` says whether to retry."""

# https://developer.squareup.com/docs/working-with-apis/idempotency. The codes are in squareup, `error_code.py`.
square: Profile = Profile(
    codes={
        "IDEMPOTENCY_KEY_REUSED": FailureKind.KEY_MISUSE,
        "RATE_LIMITED": FailureKind.THROTTLED,
        "TEMPORARY_ERROR": FailureKind.AMBIGUOUS,
        **dict.fromkeys(
            [
                "ALLOWABLE_PIN_TRIES_EXCEEDED",
                "ADDRESS_VERIFICATION_FAILURE",
                "BUYER_REFUSED_PAYMENT",
                "CARD_DECLINED",
                "CARD_DECLINED_CALL_ISSUER",
                "CARD_DECLINED_VERIFICATION_REQUIRED",
                "CARD_EXPIRED",
                "CARD_NOT_SUPPORTED",
                "CVV_FAILURE",
                "GENERIC_DECLINE",
                "INSUFFICIENT_FUNDS",
                "PAYMENT_LIMIT_EXCEEDED",
                "REFUND_DECLINED",
                "TRANSACTION_LIMIT",
                "VOICE_FAILURE",
            ],
            FailureKind.DECLINED,
        ),
    },
    statuses={409: FailureKind.IN_PROGRESS},
)
"""Square: refusals of a card are `DECLINED`, and `IDEMPOTENCY_KEY_REUSED` (400) is `KEY_MISUSE`."""

# https://developer.paypal.com/api/rest/reference/idempotency: if two requests with one id run at the same time, the
# second may fail.
paypal: Profile = Profile(
    codes={
        "DUPLICATE_REQUEST_ID": FailureKind.KEY_MISUSE,
        "INSTRUMENT_DECLINED": FailureKind.DECLINED,
        "PAYPAL_REQUEST_ID_PREVIOUSLY_USED": FailureKind.KEY_MISUSE,
        "TRANSACTION_REFUSED": FailureKind.DECLINED,
    },
    statuses={409: FailureKind.IN_PROGRESS},
)
"""PayPal: 409 means that a request with this id is still running."""

# Both SDKs retry a 409 as a "lock timeout": another request works on the same object.
openai: Profile = Profile(statuses={409: FailureKind.IN_PROGRESS})
"""OpenAI: 409 means that another request is still running."""

anthropic: Profile = Profile(statuses={409: FailureKind.IN_PROGRESS})
"""Anthropic: 409 means that another request is still running."""

# https://google.aip.dev/193: the body has the gRPC code, which tells the two meanings of 409 apart.
google: Profile = Profile(codes={code: GRPC_CODES[code] for code in ("ABORTED", "ALREADY_EXISTS")})
"""Google: 409 is a conflict (`ABORTED`), or the object already exists (`ALREADY_EXISTS`)."""

PROVIDERS: Mapping[str, Profile] = {
    "adyen": adyen,
    "anthropic": anthropic,
    "google": google,
    "openai": openai,
    "square": square,
    "stripe": stripe,
}
"""The profiles for the exceptions of the providers' own libraries, by the name in a library's row."""
