#include <pcap.h>
#include <ruby.h>

void Init_pcap_peek(void) {
    rb_define_global_const("PCAP_VERSION", rb_str_new_cstr(pcap_lib_version()));
}
