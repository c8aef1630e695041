"""Names whose values are credentials, and values that look like one.

Some names decide alone (`password`), others only together with a value that looks like a credential (`key`, `pin`): a
learning rate, a digest or the name of a class must not be taken for one.
"""

import re
from functools import lru_cache

REDACTED = "[redacted]"

_OF_SERVICES = (
    "private|account|license|licence|auth|service|storage|encryption|decryption|signing|crypt(?:o|ed)?|cipher|aes|rsa|hmac|"
    "ssh|gpg|pgp|jwt|wandb|comet|neptune|clearml|mlflow|openai|anthropic|huggingface|hf|github|gitlab|slack|kaggle|sentry|"
    "sendgrid|stripe|smtp|lightning|deploy|consumer|subscription|webhook|secret|access|api|ingest|instrumentation|session"
)

_SECRET_NAME = re.compile(
    r"(?:^|[_\-.\s/])(?:"
    r"pass(?:w(?:or)?d?|phrase|code)?s?|passw(?:or)?ds?|passwort|kennwort|contrase[nñ]a|pwd?|pw|pswd|"
    r"(?:client[_\-]?)?secrets?(?:[_\-]?(?:access[_\-]?)?keys?)?(?:[_\-]?id)?|bearer|token|"
    rf"(?:{_OF_SERVICES})[_\-]?keys?(?:[_\-]?id)?|private[_\-]?key[_\-]?(?:id|data)|"
    r"(?:api|access|auth|refresh|bearer|hf|id|session|secret|user|personal|ci|bot|deploy)[_\-]?tokens|"
    r"credentials?|creds?|auth(?:orization)?|sas|shared[_\-]?access[_\-]?(?:key|signature)|"
    r"(?:(?:my)?sql|redis|mongo|pg|db|smtp|mail|ftp)(?:pass(?:w(?:or)?d)?|pwd?)|userpass|"
    r"connection[_\-]?string|webhook(?:[_\-]?url)?|private[_\-]?token|totp|otp[_\-]?seed|seed[_\-]?phrase|mnemonic"
    r")\d*$",
    re.IGNORECASE,
)
"""Names whose values are credentials."""

_HOLDER = re.compile(r"(?:^|[_\-./])(?:secrets?|credentials?|creds|passwords|logins)[./]", re.IGNORECASE)
"""Names of what holds credentials, at the beginning of or inside a dotted name: `secrets.db`."""

_HINTING_NAME = re.compile(
    r"(?:^|[_\-.\s/])(?:tokens?|key|pin|licen[cs]e|cookies?|salt|sig(?:nature)?|dsn|session(?:[_\-]?id)?|login|puk|cvv|nonce|"
    r"webhook\w*)\d*$",
    re.IGNORECASE,
)
"""Names whose values are credentials if they look like one."""

_ONLY_TEXT = re.compile(r"(?:^|[_\-.\s/])(?:pass(?:es)?|tokens?|auth|bearer|pw|sas)\d*$", re.IGNORECASE)
"""Names that mean a credential if the value is a text, and a count or a switch if it is a number."""

VOCABULARY = re.compile(r"(^|[_\-.])(pad|bos|eos|unk|sep|cls|mask|start|end|stop|special|image|class)[_\-]token$", re.I)
"""Names of special tokens of language models, which are not credentials."""

_OF_A_NAME = re.compile(
    r"[A-Za-z][A-Za-z_:.-]*(?:key|auth|token|session)(?:[_-]?id)?|types-[\w-]+|bearer|basic", re.IGNORECASE
)
"""Values that are the name of a credential: `ACCESS_KEY = "aws_access_key_id"`."""

PLACEHOLDER = re.compile(
    r"\W*|.*[{}<>%$].*|(?i:x+|none|null|true|false|your\W.*|change\W?me)|[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", re.DOTALL
)
"""Values that are not credentials: empty ones, templates, placeholders, and names of environment variables."""

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Return True if a text with this name is likely to be a credential.

    >>> is_secret_name("wandb_api_key"), is_secret_name("num_tokens"), is_secret_name("secrets.db")
    (True, False, True)
    """
    words = spaced(name)
    return bool(_SECRET_NAME.search(words) or _HOLDER.search(words)) and not VOCABULARY.search(words)


def is_holder(name: str) -> bool:
    """Return True if a name, such as `secrets`, means that everything in its value is a credential."""
    return bool(_HOLDER.search(f"{spaced(name)}."))


def hints_at_secret(name: str) -> bool:
    """Return True if a text with this name is a credential if it looks like one."""
    words = spaced(name)
    return bool(_HINTING_NAME.search(words)) and not VOCABULARY.search(words)


def is_secret(name: str, value: object) -> bool:
    """Return True if a single value is likely to be a credential, judging by its name and itself.

    >>> is_secret("token", "a1b2c3"), is_secret("token", 512), is_secret("key", "train_loss")
    (True, False, False)
    """
    if value is None or isinstance(value, bool) or value in ("", REDACTED):
        return False
    if isinstance(value, int | float):
        # A password or a PIN may be a number. The numbers of passes and of tokens are none.
        return is_secret_name(name) and not _ONLY_TEXT.search(spaced(name))
    if not isinstance(value, str):
        return False
    return is_secret_name(name) or (hints_at_secret(name) and looks_generated(value))


def is_name_of_secret(name: str, value: str) -> bool:
    """Return True if a value is only the name of what a name tells.

    >>> is_name_of_secret("ACCESS_KEY", "aws_access_key_id"), is_name_of_secret("password", "my_key")
    (True, False)
    """
    return _OF_A_NAME.fullmatch(value) is not None and re.search(r"pass|pwd|pw$", name, re.IGNORECASE) is None


def spaced(name: str) -> str:
    """Return a name in camel case with its words separated: `api_Key` for `apiKey`."""
    return _CAMEL.sub("_", name).strip()


def looks_random(value: str) -> bool:
    """Return True if a value has the characters of a credential, and a letter and a digit."""
    plain = len(value) >= 8 and re.fullmatch(r"[\w.~+/=:@!#?&*^-]+", value) and value[0] not in "/.~"
    return bool(plain and re.search(r"\d", value) and re.search(r"[A-Za-z]", value))


def looks_generated(value: str) -> bool:
    """Return True if a value looks machine-generated, and not like a name with a number.

    >>> looks_generated("q7Wx93kZp0Lm"), looks_generated("resnet50.layer1"), looks_generated("ResNet50Block3")
    (True, False, False)
    """
    digits, others = len(re.findall(r"\d", value)), len(re.findall(r"[\W_]", value))
    if len(value) >= 24 and digits >= 4 and others <= 2 and not re.search(r"\s", value):
        return True
    # Uppercase, lowercase and digits in turns, without anything that reads as a word.
    return (
        len(value) >= 10
        and re.fullmatch(r"[A-Za-z0-9+=~!-]+", value) is not None
        and digits >= 2
        and not re.search(r"[a-z]{4}|[A-Z]{6}", value)
        and bool(re.search(r"[a-z]", value) and re.search(r"[A-Z]", value))
        and len(re.findall(r"\d+|[a-z]+|[A-Z]+", value)) >= 5
    )
