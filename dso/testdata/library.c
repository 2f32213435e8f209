/* A library to be loaded by objects.c. */
int
library_function(int x)
{
    return x * 3;
}
