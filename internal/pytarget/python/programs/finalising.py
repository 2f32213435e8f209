# Answers from a finaliser while the interpreter is being finalised; the process must then end by itself.
import sys
import pytarget


class Late(object):
    def __del__(self, serve=pytarget.serve, send=pytarget.channel.send, getpid=pytarget.os.getpid):
        send({"value": getpid()})
        serve()


late = Late()
kept = [[str(i)] for i in range(10000)]
sys.exit(0)
