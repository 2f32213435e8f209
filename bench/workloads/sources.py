"""Sources of the standard library, for the workloads that compile and parse. Not a workload."""
import os

NAMES = [
    "argparse.py", "ast.py", "base64.py", "bdb.py", "bisect.py", "calendar.py", "cmd.py", "code.py", "codecs.py",
    "collections/__init__.py", "configparser.py", "contextlib.py", "copy.py", "csv.py", "datetime.py", "decimal.py",
    "difflib.py", "dis.py", "doctest.py", "email/message.py", "enum.py", "fileinput.py", "fractions.py", "ftplib.py",
    "functools.py", "gettext.py", "heapq.py", "http/client.py", "http/cookies.py", "imaplib.py", "inspect.py",
    "ipaddress.py", "json/decoder.py", "logging/__init__.py", "mailbox.py", "optparse.py", "pdb.py", "pickle.py",
    "platform.py", "plistlib.py", "pprint.py", "pydoc.py", "random.py", "shutil.py", "smtplib.py", "socket.py",
    "ssl.py", "statistics.py", "string.py", "subprocess.py", "tarfile.py", "tempfile.py", "textwrap.py",
    "threading.py", "tokenize.py", "traceback.py", "typing.py", "unittest/case.py", "unittest/mock.py",
    "urllib/parse.py", "urllib/request.py", "uuid.py", "xmlrpc/client.py", "zipfile.py",
]


def load(count):
    """The first so many sources that this version of the library has, going round when there are not enough."""
    library = os.path.dirname(os.__file__)
    texts = []
    for name in NAMES:
        path = os.path.join(library, *name.split("/"))
        if os.path.exists(path):
            with open(path, encoding="utf-8") as source:
                texts.append((name, source.read()))
    return [texts[i % len(texts)] for i in range(count)]
