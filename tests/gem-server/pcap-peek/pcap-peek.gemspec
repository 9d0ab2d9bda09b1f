# A gem that does not compile where a header is missing, for tests of what forge
# says then.
Gem::Specification.new do |spec|
  spec.name = "pcap-peek"
  spec.version = "1.0.0"
  spec.summary = "The version of libpcap"
  spec.authors = ["forge"]
  spec.files = ["ext/pcap_peek/extconf.rb", "ext/pcap_peek/pcap_peek.c"]
  spec.extensions = ["ext/pcap_peek/extconf.rb"]
end
