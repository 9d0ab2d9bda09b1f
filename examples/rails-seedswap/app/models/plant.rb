# What grows from a packet, and how many years its seed keeps, dry and cool.
class Plant < Data.define(:name, :keeps)
  # Percent of the seed that germinates in its first year. By the last year that
  # it keeps, half of that does.
  FRESH = 90

  def germination(age) = (FRESH * 0.5**(age / keeps.to_f)).round

  ALL = {
    "Bean" => 3, "Beetroot" => 4, "Cabbage" => 5, "Carrot" => 3, "Cucumber" => 6, "Leek" => 3, "Lettuce" => 4, "Marigold" => 3,
    "Onion" => 2, "Parsnip" => 1, "Pea" => 3, "Pepper" => 3, "Pumpkin" => 5, "Sunflower" => 4, "Sweet corn" => 2, "Tomato" => 5
  }.map { |name, keeps| new(name:, keeps:) }.freeze

  def self.names = ALL.map(&:name)

  def self.named(name) = ALL.find { |plant| plant.name == name }
end
