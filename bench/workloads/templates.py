"""Jinja2: a page with a loop, a macro, filters and escaping, compiled once and rendered."""
import jinja2

PAGE = """
{%- macro cell(value, kind='plain') -%}<td class="{{ kind }}">{{ value|e }}</td>{%- endmacro -%}
<html><head><title>{{ title|title }}</title></head><body><table>
{% for row in rows if row.number is not divisibleby 7 -%}
<tr class="{{ loop.cycle('odd', 'even') }}">{{ cell(row.number, 'number') }}{{ cell(row.name|upper) }}
{%- for tag in row.tags|sort %}{{ cell(tag) }}{% else %}{{ cell('none') }}{% endfor %}</tr>
{% endfor %}</table><p>{{ rows|map(attribute='number')|sum }} in {{ rows|length }}</p></body></html>
"""


def prepare(size):
    return size, jinja2.Environment(autoescape=True).from_string(PAGE)


def run(inputs):
    size, template = inputs
    total = 0
    for i in range(size):
        rows = [{"number": n, "name": "row <%d>" % n, "tags": ["b%d" % n, "a&%d" % i]} for n in range(i, i + 40)]
        total += len(template.render(title="page %d" % i, rows=rows))
    return total, None
