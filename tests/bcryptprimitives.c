/* For Wine before 9, which lacks this library of Windows: Rust draws random bytes by its one function.
   tests/portability.sh compiles it and puts it beside the test binary. */
#include <windows.h>
#include <ntsecapi.h>

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE bytes, SIZE_T count)
{
    return RtlGenRandom(bytes, (ULONG)count);
}
