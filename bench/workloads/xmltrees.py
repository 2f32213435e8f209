"""lxml: documents parsed, searched, changed and written."""
import lxml.etree

import steady  # noqa: F401


def prepare(size):
    rows = ["<row id='%d' kind='k%d'><name>name %d</name><tags>%s</tags></row>" % (
        i, i % 7, i, "".join("<tag n='%d'>t%d</tag>" % (j, j * i) for j in range(5))) for i in range(120)]
    return size, ("<rows>" + "\n".join(rows) + "</rows>").encode()


def run(inputs):
    size, text = inputs
    total = 0
    for i in range(size):
        tree = lxml.etree.fromstring(text)
        found = tree.findall(".//row[@kind='k%d']" % (i % 7))
        for row in found:
            row.set("seen", str(i))
            row.append(lxml.etree.Element("mark"))
        total += len(found) + len(lxml.etree.tostring(tree))
    return total, None
