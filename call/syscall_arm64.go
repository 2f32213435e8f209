package call

// syscallSize is the size of the system call instruction, bytes.
const syscallSize = 4
