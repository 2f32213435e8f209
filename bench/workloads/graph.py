"""A big graph of instances, all of them kept."""


class Node:
    def __init__(self, key, parent):
        self.key = key
        self.parent = parent
        self.children = []


def prepare(size):
    return size


def run(size):
    nodes = [Node(0, None)]
    for key in range(1, size):
        parent = nodes[(key - 1) // 8]
        node = Node(key, parent)
        parent.children.append(node)
        nodes.append(node)
    return sum(len(node.children) for node in nodes), nodes
