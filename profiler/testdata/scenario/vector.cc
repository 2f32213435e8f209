// A vector that grows, as C++ programs have them.
#include <cstddef>
#include <vector>

extern "C" std::vector<char> *grow_vector(size_t size)
{
	auto *v = new std::vector<char>;

	for (size_t i = 0; i < size; i++)
		v->push_back(char(i));
	return v;
}

extern "C" void drop_vector(std::vector<char> *v) { delete v; }
