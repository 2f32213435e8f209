"""Docutils: reStructuredText to a document tree and out again."""
import docutils.core

SECTION = """
Section {0}
===========

A paragraph with *emphasis*, **strong words**, ``literals`` and a link{0}_ to section {0}.

.. _link{0}: https://example.invalid/{0}

- first item
- second item, with a footnote [#f{0}]_

  - nested item

====== ======
name   number
====== ======
a      {0}
b      {0}
====== ======

.. note:: Something to remember about {0}.

::

    literal block {0}

.. [#f{0}] The footnote's text.
"""


def prepare(size):
    return "".join(SECTION.format(i) for i in range(size))


def run(source):
    settings = {"_disable_config": True, "report_level": 5, "halt_level": 5}
    text = docutils.core.publish_string(source, writer_name="pseudoxml", settings_overrides=settings)
    return "%d %d" % (len(text), text.count(b"<paragraph")), None
