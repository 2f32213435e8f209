/* An extension module that loses memory. */
#include <Python.h>

static PyObject *forget(PyObject *self, PyObject *size)
{
	void *lost = PyMem_Malloc(PyLong_AsSize_t(size));

	return lost ? PyLong_FromLong(0) : PyErr_NoMemory();
}

static PyMethodDef methods[] = {{"forget", forget, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "forget", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_forget(void) { return PyModule_Create(&module); }
