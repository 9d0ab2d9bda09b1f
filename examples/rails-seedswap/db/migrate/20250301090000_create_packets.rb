class CreatePackets < ActiveRecord::Migration[7.2]
  def change
    create_table :packets do |t|
      t.string :plant, null: false
      t.string :variety, null: false
      t.integer :harvested_in, null: false
      t.string :giver, null: false
      t.text :note
      t.string :word_digest, null: false
      t.timestamps
      t.index :created_at
    end
  end
end
