import ast
src = "\n".join("def f%d(a, b=%d):\n    x = [a + i for i in range(b)]\n    return {'k': x, **{}}" % (i, i) for i in range(60))
tree = ast.parse(src)
keep(tree)
keep([ast.dump(n) for n in tree.body])
space = {}
exec(compile(tree, "<generated>", "exec"), space)
keep(space)
keep([space["f%d" % i](i) for i in range(60)])
for i in range(30):
    ns = {}
    exec("def g(n):\n    return [n, %d, 'x' * n]" % i, ns)
    keep(ns["g"](i))
