# Sprockets names its manifest at random and notes the time of each file in it.
# The name becomes the hash of the content, and the time that of the image.
require "digest"
require "json"
require "time"

STAMP = Time.at(Integer(ENV.fetch("SOURCE_DATE_EPOCH"))).utc.iso8601

Dir.glob("public/**/.sprockets-manifest-*.json", File::FNM_DOTMATCH).sort.each do |path|
  manifest = JSON.parse(File.read(path))
  manifest.fetch("files", {}).each_value { |file| file["mtime"] = STAMP if file.key?("mtime") }
  manifest["files"] = manifest["files"].sort.to_h if manifest["files"]
  manifest["assets"] = manifest["assets"].sort.to_h if manifest["assets"]
  text = JSON.generate(manifest)
  File.delete(path)
  File.write(File.join(File.dirname(path), ".sprockets-manifest-#{Digest::SHA256.hexdigest(text)[0, 32]}.json"), text)
end

# Compressed copies carry the time of their making in the header (RFC 1952).
Dir.glob("public/**/*.gz").each do |path|
  File.open(path, "r+b") do |file|
    next unless file.read(2) == "\x1F\x8B".b

    file.seek(4)
    file.write([0].pack("V"))
  end
end
