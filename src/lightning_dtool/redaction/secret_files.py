"""Files that hold credentials, by their names, which are never stored."""

import re

_SECRET_FILE = re.compile(
    r"(?:^|/)(?:"
    r"\.env(?:rc)?(?:\.[^/]*)?|[^/]*\.env|\.netrc|_netrc|\.pgpass|\.my\.cnf|\.htpasswd|\.npmrc|\.pypirc|\.pypircs?|\.git-credentials|"
    r"\.dockercfg|\.boto|\.s3cfg|\.passwd-s3fs|\.vault-token|\.kaggle/kaggle\.json|kaggle\.json|"
    r"id_(?:rsa|dsa|ecdsa|ed25519)[^/]*|[^/]*\.(?:pem|key|p12|pfx|jks|keystore|kdbx?|ppk|asc|gpg|age|ovpn|p8|der|crt\.key)|"
    r"(?:[^/]*[_.-])?(?:credentials?|secrets?|passwords?)(?:[_.-][^/]*)?\.(?:json|ya?ml|toml|ini|cfg|conf|txt|csv|local)|"
    r"credentials|secrets?|passwords?|(?:[^/]*[_.-])?service[_-]?account[^/]*\.json|kubeconfig|[^/]*\.tfvars(?:\.json)?|"
    r"[^/]*\.tfstate(?:\.backup)?|dtool\.json"
    r")$|(?:^|/)\.(?:ssh|aws|gnupg|azure|kube|docker|gcloud)/",
    re.IGNORECASE,
)


def is_secret_file(path: str) -> bool:
    """Return True if a file holds credentials, judging by its name.

    >>> is_secret_file("deploy/.env.local"), is_secret_file("secrets.py"), is_secret_file("id_rsa")
    (True, False, True)
    """
    return _SECRET_FILE.search(path) is not None
