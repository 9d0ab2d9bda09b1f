require "mkmf"

have_header("pcap.h") or abort "pcap.h is missing"
have_library("pcap")
create_makefile("pcap_peek")
