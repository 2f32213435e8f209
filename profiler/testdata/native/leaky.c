/* An extension module that loses memory of malloc's, beside much that it gives back. */
#include <Python.h>
#include <stdlib.h>
#include <string.h>

struct session {
	size_t size;
	char *body;
};

static struct session *open_session(size_t size)
{
	struct session *s = malloc(sizeof *s);

	s->size = size;
	s->body = malloc(size);	/* the leak */
	memset(s->body, 'x', size);
	return s;
}

static void close_session(struct session *s)
{
	free(s); /* and not its body */
}

/* Opens a session and closes it, which loses its body. */
static PyObject *lose(PyObject *self, PyObject *size)
{
	struct session *s = open_session(PyLong_AsSize_t(size));
	size_t got = s->size;

	close_session(s);
	return PyLong_FromSize_t(got);
}

/* The same without loss. */
static PyObject *keep_order(PyObject *self, PyObject *size)
{
	struct session *s = open_session(PyLong_AsSize_t(size));
	size_t got = s->size;

	free(s->body);
	close_session(s);
	return PyLong_FromSize_t(got);
}

static PyMethodDef methods[] = {
	{"lose", lose, METH_O, NULL}, {"keep_order", keep_order, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "leaky", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_leaky(void) { return PyModule_Create(&module); }
