"""Programs that try to earn a reward without solving the task, or to harm the machine."""

from __future__ import annotations

ATTACKS: dict[str, str] = {
    "ends before the tests": """
import sys
sys.exit(0)
""",
    "ends at once": """
import os
os._exit(0)
""",
    "ends in the call": """
import os
def f(x): os._exit(0)
""",
    "says it passed": """
print('passed')
print('OK')
def f(x): print('ok')
""",
    "equals everything": """
class A:
    def __eq__(self, other): return True
    def __hash__(self): return 0
def f(x): return A()
""",
    "a number that equals everything": """
class A(int):
    def __eq__(self, other): return True
def f(x): return A(1)
""",
    "changes equality": """
import builtins, operator
builtins.all = lambda *a: True
operator.eq = lambda *a: True
def f(x): return 0
""",
    "changes the harness": """
import json, sys
json.dumps = lambda *a, **k: '[0, 4]'
sys.modules['__main__'].encode = lambda *a: 4
def f(x): return 0
""",
    "guesses several times": """
import os
for fd in range(3, 30):
    for v in range(20):
        for i in (0, 1):
            try: os.write(fd, b'[%d, ["int", "%x"]]\\n' % (i, v))
            except OSError: pass
""",
    "guesses twice": """
import os
os.write(3, b'[0, ["int", "3"]]\\n[0, ["int", "4"]]\\n[1, ["int", "9"]]\\n[1, ["int", "8"]]\\n')
os._exit(0)
""",
    "reads the answers from the stack": """
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if isinstance(value, dict) and 'calls' in value:
                return [v for v in value['calls'] if 'expected' in str(v)][0]
        frame = frame.f_back
""",
    "an endless loop": """
while True: pass
""",
    "an endless loop in C": """
9 ** 9 ** 9
""",
    "sleeps": """
import time
time.sleep(1000)
""",
    "prints without end": """
import os
while True: os.write(1, b'x' * 65536)
""",
    "deep recursion": """
def f(x): return f(x)
""",
    "a deep value": """
def f(x):
    v = []
    for _ in range(100000): v = [v]
    return v
""",
    "a huge value": """
def f(x): return 'x' * (1 << 27)
""",
    "a huge number": """
def f(x): return 1 << (1 << 24)
""",
    "memory": """
a = b'x' * (1 << 34)
""",
    "memory bit by bit": """
a = []
while True: a.append(b'x' * (1 << 24))
""",
    "crashes": """
import ctypes
ctypes.string_at(0)
""",
    "kills": """
import os, signal
for p in (1, -1, 0):
    try: os.kill(p, signal.SIGKILL)
    except OSError: pass
""",
    "NUL": "def f(x): return x * x\x00",
    "a lone surrogate": "'\ud800'\ndef f(x): return x * x",
}
"""Each asks for 0, in time."""

BOMBS: dict[str, str] = {
    "forks": """
import os
while True:
    os.fork()
""",
    "starts programs": """
import subprocess, sys
while True: subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])
""",
    "daemons": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(999)
    os._exit(0)
""",
    "forgets its parent": """
import ctypes, time
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
if __import__('os').fork(): time.sleep(999)
time.sleep(999)
""",
    "threads": """
import threading, time
while True: threading.Thread(target=time.sleep, args=(999,)).start()
""",
}
"""Each leaves processes behind, where it can."""
