# A packet of seed that somebody offers. Who offered it can take it back with
# the word given then.
class Packet < ApplicationRecord
  has_secure_password :word

  validates :plant, inclusion: { in: ->(_) { Plant.names }, message: "is not one we know" }
  validates :variety, :giver, presence: true, length: { maximum: 80 }
  validates :note, length: { maximum: 500 }
  validates :harvested_in, numericality: { only_integer: true, greater_than: 1990, less_than_or_equal_to: ->(_) { Date.current.year } }

  scope :newest_first, -> { order(created_at: :desc, id: :desc) }

  after_create_commit -> { AppraisePacketJob.perform_later(self) }

  def title = "#{plant} “#{variety}”"

  def appraised? = appraised_at?

  # How much of it still germinates, and until when it is worth sowing.
  def appraise
    kind = Plant.named(plant)
    update!(
      germination: kind.germination(Date.current.year - harvested_in),
      sow_by: Date.new(harvested_in + kind.keeps, 12, 31),
      appraised_at: Time.current
    )
  end

  def serializable_hash(options = nil)
    super({ except: [:word_digest] }.merge(options || {}))
  end
end
