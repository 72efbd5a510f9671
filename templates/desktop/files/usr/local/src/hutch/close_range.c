/* close_range() as Linux has it, preloaded into every program of this template.
 *
 * gVisor answers EINVAL when `last` is above INT_MAX, as in close_range(3, ~0U, ...), and GLib then starts no program.
 * There is no descriptor above INT_MAX, so a range that ends there closes the same.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <sys/syscall.h>
#include <unistd.h>

int close_range(unsigned int first, unsigned int last, int flags)
{
    if (first <= INT_MAX && last > INT_MAX)
        last = INT_MAX;
    return syscall(SYS_close_range, first, last, flags);
}
