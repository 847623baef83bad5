// The bindings of all CUDA kernels, to be compiled as one: it is their headers that take the time.
#include "smm_bindings.cpp"
#include "focus_select_bindings.cpp"
#include "focus_sparse_bindings.cpp"
#include "maps_bindings.cpp"
#include "depthwise_bindings.cpp"
