import json
doc = {"users": [{"id": i, "name": "user %d" % i, "tags": ["a", "b", str(i)], "score": i / 3.0, "unicode": "\u20ac\U0001f600"} for i in range(150)]}
text = json.dumps(doc, indent=1)
keep(text)
keep(json.loads(text))
for i in range(20):
    keep(json.loads(json.dumps(doc["users"][i])))
keep(json.dumps(doc, sort_keys=True, ensure_ascii=False).encode("utf-8"))
