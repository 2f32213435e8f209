class Trouble(Exception):
    def __init__(self, n, detail):
        super().__init__(n, detail)
        self.detail = detail
def deep(n):
    if n == 0:
        raise Trouble(n, {"detail": list(range(20))})
    local = [n] * 3
    deep(n - 1)
caught = []
for i in range(60):
    try:
        deep(i % 20)
    except Trouble as e:
        caught.append(e)
keep(caught)
def chained():
    try:
        try:
            int("x" * 10)
        except ValueError as e:
            raise KeyError("outer") from e
    finally:
        caught.append(["finally"])
for i in range(30):
    try:
        chained()
    except KeyError as e:
        caught.append(e)
import traceback
keep([traceback.format_exception(type(e), e, e.__traceback__) for e in caught if isinstance(e, Exception)])
