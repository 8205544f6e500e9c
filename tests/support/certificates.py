"""Certificate authorities and certificates for tests, made by the `openssl` command once per test session."""

import atexit
import functools
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import require_program

_KEYS = {
    "ec": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "rsa": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "ed25519": ["-algorithm", "ED25519"],
}


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its key."""

    cert_path: Path
    key_path: Path

    @property
    def cert(self) -> bytes:
        """PEM."""
        return self.cert_path.read_bytes()

    @property
    def key(self) -> bytes:
        """PEM, not encrypted."""
        return self.key_path.read_bytes()


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="balancer-certificates-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def openssl(*arguments: str | Path) -> None:
    """Run the command in a folder of its own; RuntimeError with what it said when it fails."""
    command = [str(require_program("openssl")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=_folder())
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


def authority(name: str = "test authority") -> Pair:
    """A self-signed CA; the same name gives the same one."""
    return _authority(name)


@functools.cache
def _authority(name: str) -> Pair:
    stem = name.replace(" ", "-")
    pair = Pair(_folder() / f"{stem}.pem", _folder() / f"{stem}.key")
    openssl("genpkey", *_KEYS["ec"], "-out", pair.key_path)
    openssl(
        *("req", "-x509", "-new", "-key", pair.key_path, "-out", pair.cert_path),
        *("-days", "30", "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    return pair


@functools.cache
def issued(
    *names: str,
    ca: str = "test authority",
    common_name: str = "",
    key: str = "ec",
    usage: str = "serverAuth,clientAuth",
    expired: bool = False,
) -> Pair:
    """A certificate for DNS names and IP addresses, signed by that authority.

    `key`: ec, rsa or ed25519. `expired`: it was valid for one day in 2020. Equal arguments give the same files.
    """
    signer = authority(ca)
    folder = Path(tempfile.mkdtemp(dir=_folder()))
    pair = Pair(folder / "cert.pem", folder / "key.pem")
    request, extensions = folder / "request.pem", folder / "extensions"
    lines = ["basicConstraints=CA:FALSE", f"extendedKeyUsage={usage}"]
    if names:
        kinds = ("IP" if name.replace(".", "").isdigit() or ":" in name else "DNS" for name in names)
        lines.append("subjectAltName=" + ",".join(f"{kind}:{name}" for kind, name in zip(kinds, names, strict=True)))
    extensions.write_text("\n".join(lines) + "\n")
    openssl("genpkey", *_KEYS[key], "-out", pair.key_path)
    openssl("req", "-new", "-key", pair.key_path, "-subj", f"/CN={common_name or 'test'}", "-out", request)
    if expired:
        _sign_in_the_past(signer, request, extensions, pair.cert_path)
    else:
        openssl(
            *("x509", "-req", "-in", request, "-CA", signer.cert_path, "-CAkey", signer.key_path),
            *("-CAcreateserial", "-days", "30", "-extfile", extensions, "-out", pair.cert_path),
        )
    return pair


def _sign_in_the_past(signer: Pair, request: Path, extensions: Path, cert: Path) -> None:
    """`openssl ca` is the only command of OpenSSL 3.0 that takes dates; it wants a small data base."""
    folder = request.parent
    (folder / "index").touch()
    config = folder / "ca.cnf"
    config.write_text(
        f"[ca]\ndefault_ca=d\n[d]\ndatabase={folder}/index\nnew_certs_dir={folder}\nrand_serial=yes\n"
        "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n"
    )
    openssl(
        *("ca", "-batch", "-notext", "-config", config, "-cert", signer.cert_path, "-keyfile", signer.key_path),
        *("-startdate", "20200101000000Z", "-enddate", "20200102000000Z", "-extfile", extensions),
        *("-in", request, "-out", cert),
    )
